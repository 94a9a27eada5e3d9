// The names that the libraries of drivers export, a table each.
#include <array>

#include "driver.h"

namespace fastio {
namespace {

constexpr std::array kKnown = {
    DriverNames{
        .kind = "CUDA",
        .library = "libcuda.so.1",
        .variable = "FASTIO_CUDA_LIBRARY",
        .dlpack_device = 2,
        .version_least = 11000,
        .init = "cuInit",
        .driver_version = "cuDriverGetVersion",
        .device_count = "cuDeviceGetCount",
        .device = "cuDeviceGet",
        .bus_id = "cuDeviceGetPCIBusId",
        .context_state = "cuDevicePrimaryCtxGetState",
        .retain_context = "cuDevicePrimaryCtxRetain",
        .release_context = "cuDevicePrimaryCtxRelease_v2",
        .push_context = "cuCtxPushCurrent_v2",
        .pop_context = "cuCtxPopCurrent_v2",
        .host_register = "cuMemHostRegister_v2",
        .host_unregister = "cuMemHostUnregister",
        .host_allocate = "cuMemHostAlloc",
        .host_free = "cuMemFreeHost",
        .copy_in = "cuMemcpyHtoDAsync_v2",
        .copy_out = "cuMemcpyDtoHAsync_v2",
        .make_stream = "cuStreamCreate",
        .destroy_stream = "cuStreamDestroy_v2",
        .stream_wait = "cuStreamWaitEvent",
        .stream_synchronize = "cuStreamSynchronize",
        .make_event = "cuEventCreate",
        .destroy_event = "cuEventDestroy_v2",
        .record_event = "cuEventRecord",
        .query_event = "cuEventQuery",
        .event_synchronize = "cuEventSynchronize",
        .error_name = "cuGetErrorName",
        .error_text = "cuGetErrorString",
    },
};

}  // namespace

std::span<const DriverNames> known_drivers() { return kKnown; }

}  // namespace fastio
