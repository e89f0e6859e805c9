"""The two models of a robustness claim: the network and the threat."""
