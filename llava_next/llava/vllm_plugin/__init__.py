"""The plug-in for vLLM: a checkpoint of this project as a model that ``vllm serve`` runs.

vLLM calls ``register`` in each of its processes, by the entry point of ``vllm.general_plugins``.
Nothing else of this project imports this package, and nothing here is needed without vLLM.
"""

ARCHITECTURES = {
    "LlavaQwen3ForCausalLM": "llava.vllm_plugin.model:LlavaQwen3ForVllm",
    "LlavaQwenForCausalLM": "llava.vllm_plugin.model:LlavaQwenForVllm",
}
"""What a checkpoint's config.json names under ``architectures``, and the class that vLLM builds."""


def register() -> None:
    """Tell vLLM the models and the loader of packed codec assets; may be called again.

    The models' own module is imported when vLLM builds one, so that no process touches a GPU before
    it has forked.
    """
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports]

    # Both register by being imported: the configurations, so that no remote code is needed, and
    # the loader.
    import llava.model
    import llava.vllm_plugin.media  # noqa: F401

    for architecture, place in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, place)
