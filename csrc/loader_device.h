// A lane's way to devices: a stream of each that its job fills, and what is on its way there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "device.h"
#include "device_ends.h"
#include "error.h"
#include "loader_request.h"

namespace fastio {

class DeviceCopies {
 public:
  // Copies wait for `ready`, one event for each of the devices. Throws IoError.
  DeviceCopies(const LoadOptions& options, const std::vector<std::unique_ptr<Event>>& ready);

  // The copies of one block, which are reached together.
  struct Flight {
    std::vector<std::shared_ptr<Event>> events;  // of each device, made when it is first used
    std::vector<std::size_t> devices;            // those that were copied to
  };

  // Of each stream that the flight is in.
  [[nodiscard]] StreamEnds ends(const Flight& flight) const;

  // Copies the parts of a block that belong on devices. `data` is left alone when the flight has
  // landed. After a refusal nothing reads `data` any more.
  [[nodiscard]] std::optional<Failure> start(const ShardRequest& shard, const Extent& block,
                                             const std::byte* data, Flight& flight);

  // Whether all of it is done, also where a device fails.
  struct Landing {
    bool landed = false;
    std::optional<Failure> refused;
  };
  [[nodiscard]] Landing ask(Flight& flight);
  // The same, when all of it is done.
  [[nodiscard]] std::optional<Failure> wait(Flight& flight);

  // Waits for everything. The answers of a lost device do not matter: it copies nothing.
  void drain() noexcept;

 private:
  struct Piece {
    std::size_t device = 0;
    DeviceAddress to = 0;
    const std::byte* from = nullptr;
    std::uint64_t nbytes = 0;
    std::size_t place = 0;
  };

  void add(Piece piece);
  [[nodiscard]] std::optional<Failure> copy(Flight& flight);

  std::vector<std::unique_ptr<Stream>> streams_;  // of each device
  std::vector<Piece> pieces_;
  bool joins_places_;
};

}  // namespace fastio
