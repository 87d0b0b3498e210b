"""How long a token takes in a model and its cuts, and how much memory: the paper's Tables 7-10."""
