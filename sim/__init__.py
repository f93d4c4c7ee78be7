"""The simulated engine: cost model, links, continuous batching and workload driver on simpy."""
