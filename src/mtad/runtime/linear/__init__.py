"""Linear layers whose weights are kept in another form than they were loaded in.

A format (`formats.py`) has kernels, each a layer in the place of `torch.nn.Linear` (`kernel.py`):
plain weights have none, `packed.py` is that of bfloat16, `onednn.py` and `zentorch.py` are those of
8-bit integers (`int8.py`), before which channels can be balanced (`balance.py`). A kernel is tried
on every shape before it is used (`trial.py`). Layers of the same input are multiplied as one
(`joint.py`), and the norms before them can be one operation (`norm.py`).
"""
