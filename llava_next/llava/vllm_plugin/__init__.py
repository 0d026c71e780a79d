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
    """Tell vLLM the model classes, and transformers the configurations; may be called again.

    The model's own module is imported when vLLM builds the model, so that no process touches a GPU
    before it has forked.
    """
    from vllm import ModelRegistry

    import llava.model  # noqa: F401  (registers the configurations: no remote code is needed)

    for architecture, place in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, place)
