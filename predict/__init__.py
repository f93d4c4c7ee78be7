"""Predictors: which agents make a workflow's next calls. One predictor a file."""
