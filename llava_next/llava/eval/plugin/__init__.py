"""The model as a plug-in of lmms-eval: requests, assets, answers, manifest."""
