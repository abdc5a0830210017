"""swancli: remote-sensing image-text retrieval with SWAN, from a downloaded data set to a ranked answer."""

__version__ = "0.1.0"
