"""How a policy scores and samples actions."""

from sb3_prefine.policies.aliases import make_policy
from sb3_prefine.policies.custom import HasLikelihood
from sb3_prefine.policies.cvae import CVAEPolicy
from sb3_prefine.policies.likelihood import likelihood_of

__all__ = ["CVAEPolicy", "HasLikelihood", "likelihood_of", "make_policy"]
