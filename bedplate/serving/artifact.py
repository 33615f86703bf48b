"""A model version, loaded and proven: files as they were registered, and the golden scores reproduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from bedplate.batch import Batch
from bedplate.errors import ArtifactError, suggest
from bedplate.features.encoder import Encoder
from bedplate.features.signature import Signature
from bedplate.serving.model import Model
from bedplate.serving.retrieval import Catalogue


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """A model with what it takes to feed it.

    Attributes:
        model: the graph.
        signature: what it reads and gives.
        encoder: makes its tensors of a batch.
        catalogue: the retrieval index, where the artifact has one.
    """

    model: Model
    signature: Signature
    encoder: Encoder
    catalogue: Catalogue | None = None

    def run(self, batch: Batch, output: str) -> Any:
        """An output of the model for a batch."""
        tensors = self.encoder.encode(batch)
        return self.model.run({name: tensors[name] for name in self.model.inputs}, [output])[0]

    def require(self, output: str) -> None:
        """Checks that the model gives an output.

        Raises:
            ArtifactError: it doesn't: the model is of another kind.
        """
        if output not in self.model.outputs:
            raise ArtifactError(
                f"the model has no output '{output}'",
                where=self.model.place,
                hint=suggest(output, self.model.outputs, "outputs"),
            )

    def of_request(self) -> Artifact:
        """The same model fed with features of the request only."""
        fields = [f for f in self.encoder.fields if f.level == "request"]
        return Artifact(self.model, self.signature, Encoder(fields, self.encoder.vocabularies), self.catalogue)
