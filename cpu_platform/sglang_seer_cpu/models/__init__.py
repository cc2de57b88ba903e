"""Model classes an engine on a CPU knows at start.

Stock, every scheduler imports SGLang's 200 model files, some 10 s. With
``SGLANG_EXTERNAL_MODEL_PACKAGE`` naming this package it imports these few first
and the others only for a checkpoint that needs them.
"""
