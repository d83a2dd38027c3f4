"""What can be read from activations, and where: probes as scikit-learn estimators, with controls by default."""

from probes.attentive import AttentiveProbe
from probes.features import Features, features
from probes.judging import probe_features
from probes.layers import probe_heads, probe_layers
from probes.linear import LinearProbe, RidgeProbe
from probes.mass_mean import MassMeanProbe
from probes.mdl import DescriptionLength, description_length
from probes.result import ProbeResult
from probes.untrained import untrained

__all__ = [
    "AttentiveProbe",
    "DescriptionLength",
    "Features",
    "LinearProbe",
    "MassMeanProbe",
    "ProbeResult",
    "RidgeProbe",
    "description_length",
    "features",
    "probe_features",
    "probe_heads",
    "probe_layers",
    "untrained",
]
