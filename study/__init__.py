"""Many simulations as one study: sweeps over a scenario, and plans that search for the smallest memory."""
