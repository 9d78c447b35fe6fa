"""The ClientApp: the package's own.

To train your own model on your own data, write a train function as for any Flower app (it receives and returns dense arrays) and
put the mod of `cwmp_federated.client.mod` on it: `@app.train(mods=[CwmpMod()])`.
"""

from cwmp_federated.client.app import app

__all__ = ["app"]
