"""`mtad bench front`: what lossy rules pay for acceptance, against the least that any rule must.

With o the law of a token, p the target's, q the draft's, and one draft token per position,

    share rejected + TV(o, p)  >=  TV(p, q)

position.py   bias and rejection of a rule where p and q are known, by its own `verify`
measure.py    their means over texts that the pair writes, for the runs of a results folder
"""
