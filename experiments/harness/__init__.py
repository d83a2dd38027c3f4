"""The tasks of the LM Evaluation Harness (lm_eval), asked of a hooked model with and without interventions."""
