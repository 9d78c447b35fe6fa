"""A network with enough parameters for payloads to outweigh envelopes, importable as `module:callable`."""

import os
import sys
import types

from ordinary_nets import ORDINARY, UNFIT

from cwmp_costmodels.networks.builtin import Mlp

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

_nets = types.ModuleType("cwmp_federated_test_nets")
_nets.wide = lambda: Mlp(num_classes=10, input_shape=(1, 8, 8), hidden=(512, 128))
sys.modules["cwmp_federated_test_nets"] = _nets

_ordinary = types.ModuleType("cwmp_federated_ordinary_nets")
vars(_ordinary).update(ORDINARY)
vars(_ordinary).update({name: make for name, (make, _reason) in UNFIT.items()})
_ordinary.instance = ORDINARY["batch_norm"]()
sys.modules["cwmp_federated_ordinary_nets"] = _ordinary
