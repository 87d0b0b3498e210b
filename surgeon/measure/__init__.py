"""Which sublayers are redundant, what a cut costs and what it saves: the paper's figure and tables."""
