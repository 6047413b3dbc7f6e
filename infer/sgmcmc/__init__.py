"""SG-MCMC for NumPyro models; its public names are those of `emberwalk.infer`."""
