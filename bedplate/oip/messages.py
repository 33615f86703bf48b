"""The messages of the Open Inference Protocol over gRPC, by their published names, fields and numbers.

They are made when this is imported, in a pool of their own: a program that has Triton's client too has both. Fields
that are not listed are skipped where they come, and never sent.

https://github.com/open-inference/open-inference-protocol, and Triton's extensions of it
"""

from __future__ import annotations

import importlib
from typing import Any

# The library's types say nothing of messages that are made at run time.
_proto: Any = importlib.import_module("google.protobuf.descriptor_pb2")
_pools: Any = importlib.import_module("google.protobuf.descriptor_pool")
_factory: Any = importlib.import_module("google.protobuf.message_factory")
DecodeError: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
"""What parsing bytes that are no such message raises."""

_PACKAGE = "inference"
_FIELDS = """
ServerLiveRequest
ServerLiveResponse: bool live 1
ServerReadyRequest
ServerReadyResponse: bool ready 1
ModelReadyRequest: string name 1, string version 2
ModelReadyResponse: bool ready 1
ServerMetadataRequest
ServerMetadataResponse: string name 1, string version 2, string* extensions 3
ModelMetadataRequest: string name 1, string version 2
TensorMetadata: string name 1, string datatype 2, int64* shape 3
ModelMetadataResponse: string name 1, string* versions 2, string platform 3, TensorMetadata* inputs 4,
    TensorMetadata* outputs 5
InferParameter: bool bool_param 1 |, int64 int64_param 2 |, string string_param 3 |, double double_param 4 |,
    uint64 uint64_param 5 |
InferTensorContents: bool* bool_contents 1, int32* int_contents 2, int64* int64_contents 3, uint32* uint_contents 4,
    uint64* uint64_contents 5, float* fp32_contents 6, double* fp64_contents 7, bytes* bytes_contents 8
InferInputTensor: string name 1, string datatype 2, int64* shape 3, InferParameter% parameters 4,
    InferTensorContents contents 5
InferRequestedOutputTensor: string name 1, InferParameter% parameters 2
ModelInferRequest: string model_name 1, string model_version 2, string id 3, InferParameter% parameters 4,
    InferInputTensor* inputs 5, InferRequestedOutputTensor* outputs 6, bytes* raw_input_contents 7
InferOutputTensor: string name 1, string datatype 2, int64* shape 3, InferParameter% parameters 4,
    InferTensorContents contents 5
ModelInferResponse: string model_name 1, string model_version 2, string id 3, InferParameter% parameters 4,
    InferOutputTensor* outputs 5, bytes* raw_output_contents 6
ModelStreamInferResponse: string error_message 1, ModelInferResponse infer_response 2
ModelConfigRequest: string name 1, string version 2
SpecificVersions: int64* versions 1
ModelVersionPolicy: SpecificVersions specific 3
ModelConfigTensor: string name 1, int32 data_type 2
ModelInput: string name 1, int32 data_type 2, int64* dims 4
ModelOutput: string name 1, int32 data_type 2, int64* dims 3
ModelParameter: string string_value 1
ModelConfig: string name 1, string platform 2, ModelVersionPolicy version_policy 3, int32 max_batch_size 4,
    ModelInput* input 5, ModelOutput* output 6, ModelParameter% parameters 14, string backend 17
ModelConfigResponse: ModelConfig config 1
ModelStatisticsRequest: string name 1, string version 2
StatisticDuration: uint64 count 1, uint64 ns 2
InferStatistics: StatisticDuration success 1, StatisticDuration fail 2, StatisticDuration queue 3,
    StatisticDuration compute_input 4, StatisticDuration compute_infer 5, StatisticDuration compute_output 6,
    StatisticDuration cache_hit 7, StatisticDuration cache_miss 8
InferBatchStatistics: uint64 batch_size 1, StatisticDuration compute_input 2, StatisticDuration compute_infer 3,
    StatisticDuration compute_output 4
ModelStatistics: string name 1, string version 2, uint64 last_inference 3, uint64 inference_count 4,
    uint64 execution_count 5, InferStatistics inference_stats 6, InferBatchStatistics* batch_stats 7
ModelStatisticsResponse: ModelStatistics* model_stats 1
ModelRepositoryParameter: bool bool_param 1 |, int64 int64_param 2 |, string string_param 3 |, bytes bytes_param 4 |
RepositoryIndexRequest: string repository_name 1, bool ready 2
ModelIndex: string name 1, string version 2, string state 3, string reason 4
RepositoryIndexResponse: ModelIndex* models 1
RepositoryModelLoadRequest: string repository_name 1, string model_name 2, ModelRepositoryParameter% parameters 3
RepositoryModelLoadResponse
RepositoryModelUnloadRequest: string repository_name 1, string model_name 2, ModelRepositoryParameter% parameters 3
RepositoryModelUnloadResponse
HealthCheckRequest: string service 1
HealthCheckResponse: int32 status 1
"""
"""A message a line: `*` is repeated, `%` a map by text, `|` one of several. On the wire a message's name is nothing."""


def _make() -> dict[str, Any]:
    types = {name.removeprefix("TYPE_").lower(): number for name, number in _proto.FieldDescriptorProto.Type.items()}
    file = _proto.FileDescriptorProto(name="bedplate/inference.proto", package=_PACKAGE, syntax="proto3")
    for line in _FIELDS.replace("\n    ", " ").strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for written in filter(None, (f.strip() for f in fields.split(","))):
            _field(message, written, types)
    pool = _pools.DescriptorPool()
    pool.Add(file)
    return {
        m.name: _factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{m.name}")) for m in file.message_type
    }


def _field(message: Any, written: str, types: dict[str, int]) -> None:
    kind, name, number, *mark = written.split()
    base = kind.rstrip("*%")
    repeated, single = _proto.FieldDescriptorProto.LABEL_REPEATED, _proto.FieldDescriptorProto.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=repeated if base != kind else single)
    if kind.endswith("%"):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=single, type=types["string"])
        entry.field.add(name="value", number=2, label=single, type=types["message"], type_name=f".{_PACKAGE}.{base}")
        field.type, field.type_name = types["message"], f".{_PACKAGE}.{message.name}.{entry.name}"
    elif base in types:
        field.type = types[base]
    else:
        field.type, field.type_name = types["message"], f".{_PACKAGE}.{base}"
    if mark:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


MESSAGES = _make()
"""The class of each message, by its name."""
