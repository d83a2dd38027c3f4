"""The command line of lm_eval with the model `headscope` in it: `python -m experiments.harness run --model headscope`."""

import experiments.harness.model  # noqa: F401  (registers the model)

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
