"""A policy has one look everywhere, and the main ones can be told apart without full colour vision."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from pbkv.analysis.style import CLASS_COLORS, POLICY_LOOKS, look_of

MAIN = ("lru", "lae", "pbkv-he", "pbkv", "pbkv-aggressive", "kvflow", "ttl", "mori", "belady")
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def _lab(color: str, vision: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of a hex colour as seen with ``vision``."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(vision @ linear, 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _distance(one: str, other: str, vision: str) -> float:
    return float(np.linalg.norm(_lab(one, VISION[vision]) - _lab(other, VISION[vision])))


@pytest.mark.parametrize("vision", VISION)
def test_main_policies_and_token_classes_stay_apart(vision: str) -> None:
    # 2.3 is a just noticeable difference; 12 is plain in a thin line
    for colors in ([look_of(name).color for name in MAIN], list(CLASS_COLORS.values())):
        for one, other in itertools.combinations(colors, 2):
            assert _distance(one, other, vision) > 12, (one, other)


def test_no_two_known_policies_look_alike() -> None:
    assert len({look.color for look in POLICY_LOOKS.values()}) == len(POLICY_LOOKS)
    assert len({look.marker for look in POLICY_LOOKS.values()}) == len(POLICY_LOOKS)


def test_a_policy_of_the_users_own_has_a_fixed_look() -> None:
    assert look_of("my-policy") == look_of("my-policy")
    assert look_of("my-policy").color not in {look.color for look in POLICY_LOOKS.values()}
    assert len({look_of(f"policy-{i}") for i in range(40)}) > 20
