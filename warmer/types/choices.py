"""What marks say about the target: who was chosen among whom, and ideas of how people choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warmer.v1 import common_pb2


@dataclass(frozen=True, slots=True)
class Preference:
    """What one round of feedback says about every image: PicHunter (Cox et al. 2000).

    Attributes:
        relevant, irrelevant, unmarked: ids of the displayed images, by how they were marked.
        temperature: of the choice, tau_u; 0 means the server's default.
        lapse: share of choices made at random, in [0, 1).
    """

    relevant: tuple[str, ...] = ()
    irrelevant: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    temperature: float = 0.0
    lapse: float = 0.0

    def to_proto(self) -> common_pb2.Preference:
        """As ``warmer.v1.Preference``."""
        return common_pb2.Preference(
            relevant_image_ids=self.relevant,
            irrelevant_image_ids=self.irrelevant,
            unmarked_image_ids=self.unmarked,
            temperature=self.temperature,
            lapse=self.lapse,
        )

    @classmethod
    def from_proto(cls, message: common_pb2.Preference) -> Preference:
        """From ``warmer.v1.Preference``."""
        return cls(
            tuple(message.relevant_image_ids),
            tuple(message.irrelevant_image_ids),
            tuple(message.unmarked_image_ids),
            message.temperature,
            message.lapse,
        )


@dataclass(frozen=True, slots=True)
class ChoiceModel:
    """One idea of how people choose among displayed images.

    Attributes:
        similarity: by what images are alike: ``vectors``, or ``learned`` from what people say of images (where the
            model has no such similarity, this is ``vectors``, too).
        temperature: of the choice, tau_u; 0 means the server's default.
        lapse: share of choices made at random, in [0, 1).
        weight: prior probability that this is how the person chooses, on any scale; not 0.
    """

    similarity: Literal["vectors", "learned"] = "vectors"
    temperature: float = 0.0
    lapse: float = 0.0
    weight: float = 1.0

    def to_proto(self) -> common_pb2.ChoiceModel:
        """As ``warmer.v1.ChoiceModel``."""
        kinds = {
            "vectors": common_pb2.ChoiceModel.SIMILARITY_VECTORS,
            "learned": common_pb2.ChoiceModel.SIMILARITY_LEARNED,
        }
        return common_pb2.ChoiceModel(
            similarity=kinds[self.similarity], temperature=self.temperature, lapse=self.lapse, weight=self.weight
        )

    @classmethod
    def from_proto(cls, message: common_pb2.ChoiceModel) -> ChoiceModel:
        """From ``warmer.v1.ChoiceModel``."""
        learned = message.similarity == common_pb2.ChoiceModel.SIMILARITY_LEARNED
        kind: Literal["vectors", "learned"] = "learned" if learned else "vectors"
        return cls(kind, message.temperature, message.lapse, message.weight or 1.0)
