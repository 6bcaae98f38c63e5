"""What a policy earns and costs, and how to show it."""

from sb3_prefine.evaluation.evaluate import Evaluation, evaluate_policy

__all__ = ["Evaluation", "evaluate_policy"]
