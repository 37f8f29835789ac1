"""`samestep bench`: training steps of samestep beside those of the libraries that are installed.

`command` is the runner, `contestants` starts those who take part and talks to them, `machine` knows the processors and
their peak, `report` makes figures and tables, `history` keeps records. `peers` holds the scripts of the contestants,
which run as processes of their own and import nothing of this package.
"""
