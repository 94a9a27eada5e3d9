// The double of the CUDA driver: pinned and device memory, and copies between them.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "fake_cuda_state.h"

namespace fake_cuda {
namespace {

// One changed byte always changes it.
std::uint64_t hash_of(const std::byte* data, std::size_t nbytes) {
  constexpr std::uint64_t kPrime = 0x100000001B3;  // of FNV-1a
  std::uint64_t hash = 0xCBF29CE484222325;
  for (std::size_t at = 0; at < nbytes; at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + at, std::min(sizeof word, nbytes - at));
    hash = (hash ^ word) * kPrime;
  }
  return hash;
}

Address address_of(const void* data) { return reinterpret_cast<Address>(data); }

bool overlap(Address a, std::size_t a_bytes, Address b, std::size_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

bool covers(Address a, std::size_t a_bytes, Address b, std::size_t b_bytes) {
  return a <= b && b_bytes <= a_bytes && b - a <= a_bytes - b_bytes;
}

std::byte* map_poisoned(std::size_t nbytes) {
  void* data = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  std::memset(data, kPoison, nbytes);
  return static_cast<std::byte*>(data);
}

bool is_pinned(const State& state, Address address, std::size_t nbytes) {
  auto after = state.host.upper_bound(address);
  if (after == state.host.begin()) return false;
  const auto& [begin, memory] = *std::prev(after);
  return covers(begin, memory.nbytes, address, nbytes);
}

// Calls `visit` with the copies not yet done that read or write the range.
template <typename Visit>
void pending_at(State& state, Address address, std::size_t nbytes, Visit&& visit) {
  for (auto& [handle, stream] : state.streams) {
    for (Operation& operation : stream->operations) {
      if (operation.nbytes == 0 || operation.touches_nothing) continue;
      const bool reads = overlap(address, nbytes, address_of(operation.from), operation.nbytes);
      const bool writes = overlap(address, nbytes, address_of(operation.to), operation.nbytes);
      if (reads || writes) visit(operation, writes);
    }
  }
}

// Memory is freed: copies that need it have no effect, and a pending one is a violation.
void forget_copies(State& state, const std::byte* data, std::size_t nbytes, const char* how) {
  pending_at(state, address_of(data), nbytes, [&](Operation& operation, bool) {
    state.violated(std::string("memory was ") + how + " while a copy was pending");
    operation.touches_nothing = true;
  });
}

void free_host(State& state, std::map<Address, HostMemory>::iterator found) {
  const HostMemory memory = found->second;
  state.host.erase(found);
  if (memory.of_driver) munmap(memory.data, memory.nbytes);
}

// Both directions. `host` and `device_data` are the two ends, of which one is `to`.
int put_copy(State& state, Lock& lock, int device, void* stream, Operation copy,
             const std::byte* host, const std::byte* device_data) {
  const auto into = find_stream(state, address_of(stream), device);
  if (into == nullptr) return kInvalidHandle;
  if (copy.nbytes == 0) return kSuccess;
  if (device_data == nullptr) {
    state.violated("a copy is not within one allocation of its device");
    return kInvalidValue;
  }
  bool used_before = false, written_before = false;
  pending_at(state, address_of(host), copy.nbytes, [&](const Operation&, bool writes) {
    used_before = true;
    written_before |= writes;
  });
  // A copy that waits for another copy's bytes has no source yet, and so nothing to poison.
  if (copy.kind == Operation::Kind::copy_in && !written_before)
    copy.source_hash = hash_of(copy.from, copy.nbytes);
  if (copy.kind == Operation::Kind::copy_out && !used_before)
    std::memset(copy.to, kPoison, copy.nbytes);
  const auto done = copy.point;
  const std::size_t nbytes = copy.nbytes;
  put(state, *into, std::move(copy));
  if (is_pinned(state, address_of(host), nbytes)) return kSuccess;
  state.violated("a copy from or to host memory that is not pinned");
  return wait_for(state, lock, *done, device);
}

}  // namespace

std::byte* in_device(State& state, int device, Address address, std::size_t nbytes) {
  auto after = state.device.upper_bound(address);
  if (after == state.device.begin()) return nullptr;
  const auto& [begin, memory] = *std::prev(after);
  if (memory.device != device || !covers(begin, memory.nbytes, address, nbytes)) return nullptr;
  return memory.data + (address - begin);
}

// The destination of a copy in is poisoned until the copy is done, even if the bytes were there
// before.
void begin_copy(const Operation& operation) {
  if (operation.kind == Operation::Kind::copy_in && !operation.touches_nothing)
    std::memset(operation.to, kPoison, operation.nbytes);
}

void execute_copy(State& state, const Operation& operation) {
  if (operation.touches_nothing) return;
  if (operation.kind == Operation::Kind::fill)
    std::memset(operation.to, operation.value, operation.nbytes);
  if (!operation.is_copy()) return;
  if (operation.source_hash && *operation.source_hash != hash_of(operation.from, operation.nbytes))
    state.violated("the source of a copy changed before it was done");
  std::memmove(operation.to, operation.from, operation.nbytes);
  ++state.copies_executed;
  (operation.kind == Operation::Kind::copy_in ? state.bytes_in : state.bytes_out) +=
      operation.nbytes;
}

int allocate(State& state, int device, std::size_t nbytes, Address& address) {
  std::uint64_t held_bytes = 0;
  for (const auto& [begin, memory] : state.device) {
    if (memory.device == device) held_bytes += memory.nbytes;
  }
  if (nbytes == 0) return kInvalidValue;
  if (nbytes > state.device_bytes - std::min(held_bytes, state.device_bytes)) return kOutOfMemory;
  std::byte* data = map_poisoned(nbytes);
  if (data == nullptr) return kOutOfMemory;
  address = address_of(data);
  state.device[address] = {data, nbytes, device};
  return kSuccess;
}

int free_device(State& state, Address address) {
  const auto found = state.device.find(address);
  if (found == state.device.end()) return kInvalidValue;
  const DeviceMemory memory = found->second;
  forget_copies(state, memory.data, memory.nbytes, "freed on the device");
  state.device.erase(found);
  munmap(memory.data, memory.nbytes);
  return kSuccess;
}

void free_everything(State& state) {
  while (!state.host.empty()) free_host(state, state.host.begin());
  while (!state.device.empty()) free_device(state, state.device.begin()->first);
}

extern "C" {

// ---- host memory ----

FAKE_CUDA_EXPORT int cuMemHostRegister_v2(void* data, std::size_t nbytes, unsigned) {
  return call("cuMemHostRegister_v2", Needs::context, [&](State& state, Lock&, int) -> int {
    if (state.refuse_registration != kSuccess) return state.refuse_registration;
    if (data == nullptr || nbytes == 0) return kInvalidValue;
    for (const auto& [begin, memory] : state.host) {
      if (overlap(begin, memory.nbytes, address_of(data), nbytes)) return kAlreadyRegistered;
    }
    state.host[address_of(data)] = {static_cast<std::byte*>(data), nbytes, false};
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuMemHostUnregister(void* data) {
  return call("cuMemHostUnregister", Needs::context, [&](State& state, Lock&, int) {
    const auto found = state.host.find(address_of(data));
    if (found == state.host.end() || found->second.of_driver) return kNotRegistered;
    forget_copies(state, found->second.data, found->second.nbytes, "unpinned");
    free_host(state, found);
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuMemHostAlloc(void** data, std::size_t nbytes, unsigned) {
  return call("cuMemHostAlloc", Needs::context, [&](State& state, Lock&, int) -> int {
    if (state.refuse_host_allocation != kSuccess) return state.refuse_host_allocation;
    if (nbytes == 0) return kInvalidValue;
    std::byte* made = map_poisoned(nbytes);
    if (made == nullptr) return kOutOfMemory;
    state.host[address_of(made)] = {made, nbytes, true};
    *data = made;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuMemFreeHost(void* data) {
  return call("cuMemFreeHost", Needs::context, [&](State& state, Lock&, int) {
    const auto found = state.host.find(address_of(data));
    if (found == state.host.end() || !found->second.of_driver) return kInvalidValue;
    forget_copies(state, found->second.data, found->second.nbytes, "freed");
    free_host(state, found);
    return kSuccess;
  });
}

// ---- device memory ----

FAKE_CUDA_EXPORT int cuMemAlloc_v2(unsigned long long* address, std::size_t nbytes) {
  return call("cuMemAlloc_v2", Needs::context, [&](State& state, Lock&, int device) {
    Address made = 0;
    const int result = allocate(state, device, nbytes, made);
    *address = made;
    return result;
  });
}

FAKE_CUDA_EXPORT int cuMemFree_v2(unsigned long long address) {
  return call("cuMemFree_v2", Needs::context,
              [&](State& state, Lock&, int) { return free_device(state, address); });
}

// ---- copies ----

FAKE_CUDA_EXPORT int cuMemcpyDtoH_v2(void* to, unsigned long long from, std::size_t nbytes) {
  return call("cuMemcpyDtoH_v2", Needs::context, [&](State& state, Lock&, int device) {
    const std::byte* source = in_device(state, device, from, nbytes);
    if (source == nullptr) return kInvalidValue;
    std::memcpy(to, source, nbytes);
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from,
                                          std::size_t nbytes, void* stream) {
  return call(
      "cuMemcpyHtoDAsync_v2", Needs::context, [&](State& state, Lock& lock, int device) -> int {
        const auto* host = static_cast<const std::byte*>(from);
        std::byte* data = in_device(state, device, to, nbytes);
        Operation copy{Operation::Kind::copy_in, std::make_shared<Point>(), data, host, nbytes};
        return put_copy(state, lock, device, stream, std::move(copy), host, data);
      });
}

FAKE_CUDA_EXPORT int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, std::size_t nbytes,
                                          void* stream) {
  return call(
      "cuMemcpyDtoHAsync_v2", Needs::context, [&](State& state, Lock& lock, int device) -> int {
        auto* host = static_cast<std::byte*>(to);
        const std::byte* data = in_device(state, device, from, nbytes);
        Operation copy{Operation::Kind::copy_out, std::make_shared<Point>(), host, data, nbytes};
        return put_copy(state, lock, device, stream, std::move(copy), host, data);
      });
}

}  // extern "C"

}  // namespace fake_cuda
