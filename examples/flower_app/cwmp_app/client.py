"""The ClientApp. To train your own model on your own data, write a train function and put the mod on it:

    app = ClientApp()

    @app.train(mods=[CwmpMod()])
    def train(message, context): ...  # receives and returns dense arrays, as in any Flower app
"""

from cwmp_federated.client_app import app

__all__ = ["app"]
