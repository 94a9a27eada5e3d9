// Accelerators: pinned host memory, copies to and from a device, and the order they are done in.
//
// The driver is opened at run time (driver.h), so one build serves hosts with and without a
// GPU, and nothing of it is touched before somebody asks for a device. Whoever asks has initialised
// it already: a primary context is retained here, never created. What the driver refuses is a
// Failure of the kind `device`; only what makes objects throws it. Nothing here waits for a whole
// device. Objects may be used from any thread, each by one at a time; an event by several.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver.h"
#include "error.h"

namespace fastio {

using StreamHandle = std::uintptr_t;  // as the driver has it; 0: its default stream

constexpr int kHost = -1;  // in place of a device

// Opens the driver if that was not done; initialises it.
[[nodiscard]] DriverStatus driver_status();

class Event;

class Device : public std::enable_shared_from_this<Device> {
 public:
  // Throws IoError: no driver, no such device, or one that nobody has initialised.
  static std::shared_ptr<Device> of(int ordinal);

  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  [[nodiscard]] int ordinal() const { return ordinal_; }
  // False in a process that was forked: what there is of the driver is the parent's.
  [[nodiscard]] bool ours() const { return process_ == getpid(); }
  [[nodiscard]] std::string name() const { return "cuda:" + std::to_string(ordinal_); }
  // Of the memory nearest to it; none where the system does not say.
  [[nodiscard]] std::optional<int> numa_node() const;

  // Pins memory for all devices: they copy it without the help of a processor.
  [[nodiscard]] std::optional<Failure> pin(std::byte* data, std::size_t nbytes) const;
  [[nodiscard]] std::optional<Failure> unpin(std::byte* data) const;
  // Pinned memory of the driver's own, where it refuses to pin ours.
  struct PinnedMemory {
    std::byte* data = nullptr;
    std::optional<Failure> refused;
  };
  [[nodiscard]] PinnedMemory allocate_pinned(std::size_t nbytes) const;
  [[nodiscard]] std::optional<Failure> free_pinned(std::byte* data) const;

  // Marks what was put into a stream of somebody else so far.
  [[nodiscard]] std::optional<Failure> record(StreamHandle stream, Event& event) const;
  // Later work in that stream waits for the event.
  [[nodiscard]] std::optional<Failure> hold_back(StreamHandle stream, const Event& event) const;

 private:
  friend class Event;
  friend class Stream;
  struct Key {};

 public:
  Device(Key, int ordinal, int handle, void* context);

 private:
  int ordinal_;
  int handle_;
  void* context_;
  pid_t process_ = getpid();
};

// A point in a stream, reached when all before it is done.
class Event {
 public:
  // Throws IoError.
  explicit Event(std::shared_ptr<Device> device);
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  // Whether it is reached; one never recorded is.
  struct Answer {
    bool reached = false;
    std::optional<Failure> refused;
  };
  [[nodiscard]] Answer ask() const;
  [[nodiscard]] std::optional<Failure> wait() const;

 private:
  friend class Device;
  friend class Stream;
  std::shared_ptr<Device> device_;
  void* handle_ = nullptr;
};

// A device that is filled or read, and the stream of the caller: what he put there before, such as
// work on the same memory, is waited for.
struct DeviceTarget {
  std::shared_ptr<Device> device;
  StreamHandle stream = 0;
};

// An event at the end of each target's stream. Throws IoError.
[[nodiscard]] std::vector<std::unique_ptr<Event>> mark(const std::vector<DeviceTarget>& targets);

// Copies that are done one after the other, beside what others do on the device.
class Stream {
 public:
  // Throws IoError.
  explicit Stream(std::shared_ptr<Device> device);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  // Host memory is left alone until an event recorded behind the copy is reached.
  [[nodiscard]] std::optional<Failure> copy_in(DeviceAddress to, const std::byte* from,
                                               std::size_t nbytes);
  [[nodiscard]] std::optional<Failure> copy_out(std::byte* to, DeviceAddress from,
                                                std::size_t nbytes);
  [[nodiscard]] std::optional<Failure> hold_back(const Event& event);
  [[nodiscard]] std::optional<Failure> record(Event& event);
  // Waits until all that was put here is done, also where an earlier call has failed; then the
  // first refusal is told.
  [[nodiscard]] std::optional<Failure> drain();

  [[nodiscard]] Device& device() const { return *device_; }

 private:
  [[nodiscard]] std::optional<Failure> wait() const;

  std::shared_ptr<Device> device_;
  void* handle_ = nullptr;
};

// A stream on the device of each target, behind its event of `marks`. Throws IoError.
[[nodiscard]] std::vector<std::unique_ptr<Stream>> streams_behind(
    const std::vector<DeviceTarget>& targets, const std::vector<std::unique_ptr<Event>>& marks);

}  // namespace fastio
