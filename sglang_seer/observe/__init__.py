"""What Seer would have done on a stock engine: a bounded record there, a prediction from it elsewhere. Pure."""
