"""What depends on the versions of a model: the versions of other models that read features made by them."""

from __future__ import annotations

from bedplate.registry.registry import Registry


def dependents(registry: Registry, name: str) -> dict[int, list[str]]:
    """The model versions that depend on each version of a model, as `name:version`; versions with none are left out.

    Args:
        registry: where the models are.
        name: the model.

    Raises:
        ArtifactError: a manifest is damaged.
    """
    found: dict[int, list[str]] = {}
    for model in registry.models():
        for number in registry.versions(model.name):
            version = registry.get(model.name, number)
            for parent in version.manifest.parents:
                needed, _, of = parent.partition(":")
                if needed == name:
                    found.setdefault(int(of), []).append(str(version))
    return dict(sorted(found.items()))
