"""What reads the versions of a model, and what promoted versions read: other versions, and views."""

from __future__ import annotations

from bedplate.registry.registry import Registry


def dependents(registry: Registry, name: str) -> dict[int, list[str]]:
    """The model versions that read a feature of each version of a model, as `name:version`; those of none are left out.

    What was continued from a version, or is its int8 variant, has weights of its own, and does not read it.

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
            for parent in version.manifest.read:
                needed, _, of = parent.partition(":")
                if needed == name:
                    found.setdefault(int(of), []).append(str(version))
    return dict(sorted(found.items()))


def views_of_promoted(registry: Registry) -> dict[str, str]:
    """The versions of views that models with an alias read, by the view's id; each with one such model.

    Versions of other models that make their features count as well.

    Args:
        registry: where the models are.

    Raises:
        ArtifactError: a manifest is damaged.
    """
    found: dict[str, str] = {}
    for model in registry.models():
        for alias, number in registry.aliases(model.name).items():
            waiting, seen = [f"{model.name}:{number}"], set[str]()
            while waiting:
                reference = waiting.pop()
                if reference in seen:
                    continue
                seen.add(reference)
                manifest = registry.get(reference).manifest
                waiting += manifest.read
                for name, view_id in manifest.definitions.items():
                    if name.startswith("view "):
                        found.setdefault(view_id, f"{model.name}@{alias}")
    return found
