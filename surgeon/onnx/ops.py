"""The notation for a graph: nodes, initializers, inputs and outputs, as onnx's protobuf messages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""

OPSET = 21
IR_VERSION = 10
WINDOWS_IR_VERSION = 12
"""Of graphs with sliding windows: onnxruntime before 1.24 computes others, and refuses this version."""


class Graph:
    """A graph under construction. Values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.ir_version = IR_VERSION

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Appends an operator; returns the name of its first output."""
        from onnx import helper

        names = [outputs] if isinstance(outputs, str) else list(outputs)
        node = helper.make_node(op, list(inputs), names, name=names[0], domain=domain, **attributes)
        self.nodes.append(node)
        return names[0]

    def constant(self, name: str, array: "np.ndarray[Any, Any]") -> str:
        """An initializer inside of the graph file."""
        from onnx import helper

        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        return self.raw(name, element, array.shape, array.tobytes())

    def raw(self, name: str, element: int, shape: Sequence[int], data: bytes) -> str:
        """The same from bytes, for types that numpy does not have; ``element`` is onnx's number."""
        from onnx import helper

        self.initializers.append(helper.make_tensor(name, element, shape, data, raw=True))
        return name

    def external(
        self, name: str, element: int, shape: Sequence[int], location: str, offset: int, length: int
    ) -> str:
        """An initializer whose bytes are a range of a file beside the graph."""
        from onnx import TensorProto

        tensor = TensorProto(
            name=name, data_type=element, dims=shape, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def input(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        """A graph input; dimensions are sizes or names."""
        from onnx import helper

        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        """A graph output."""
        from onnx import helper

        self.outputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def model(self, name: str, metadata: dict[str, str]) -> "ModelProto":
        """The finished model, with key-value ``metadata``."""
        from onnx import helper

        from surgeon.version import __version__

        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=self.ir_version,
            producer_name="surgeon",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        return model
