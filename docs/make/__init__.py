"""What is generated of the documentation: `./run docs`."""
