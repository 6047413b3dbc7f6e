"""Self-repellent walks for NumPyro: `GraphWalk` on graphs, `SRRW` on discrete models, and their estimators."""
