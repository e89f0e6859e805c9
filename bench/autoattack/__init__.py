"""AutoAttack (Croce and Hein, ICML 2020)."""
