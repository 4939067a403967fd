"""The opset of an ONNX file, read without the `onnx` package and without trusting the file."""

# Field numbers of ModelProto and OperatorSetIdProto in the ONNX specification.
_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2


def read_opset(model: bytes) -> int | None:
    """The version of the default operator set, or None where the bytes are no whole ONNX model."""
    try:
        for number, value in _fields(memoryview(model)):
            if number == _OPSET_IMPORT:
                entry = dict(_fields(value))
                if not bytes(entry.get(_DOMAIN, b"")):
                    return entry[_VERSION]
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    return None


def _fields(data):
    """(field number, value) of a protocol buffer's message: numbers, or views of what has a length."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if not key >> 3:
            raise ValueError("no field has number 0")
        if kind == 0:
            value, position = _varint(data, position)
        else:
            size, position = _varint(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
            value, position = data[position : position + size], position + size
            if len(value) != size:
                raise ValueError("truncated")
        yield key >> 3, value


def _varint(data, position):
    """A number in groups of seven bits, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        value, position = value | (byte & 127) << shift, position + 1
        if byte < 128:
            return value, position
    raise ValueError("no number")
