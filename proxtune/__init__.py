"""proxtune: a pretrained language model becomes a served, aligned one."""

__version__ = "0.1.0"
