#include "loader_device.h"

#include <algorithm>
#include <utility>

namespace fastio {

DeviceCopies::DeviceCopies(const LoadOptions& options,
                           const std::vector<std::unique_ptr<Event>>& ready)
    : streams_(streams_behind(options.devices, ready)), joins_places_(options.joins_places) {}

std::optional<Failure> DeviceCopies::start(const ShardRequest& shard, const Extent& block,
                                           const std::byte* data, Flight& flight) {
  pieces_.clear();
  each_part(shard.extents, block, [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
    if (shard.device_of(index) == kHost) return;
    const auto device = static_cast<std::size_t>(shard.device_of(index));
    const std::byte* from = data + (begin - block.begin);
    shard.places[index].each_run(
        begin - shard.extents[index].begin, end - begin,
        [&](std::byte* place, std::uint64_t offset, std::uint64_t nbytes) {
          add({device, reinterpret_cast<std::uintptr_t>(place), from + offset, nbytes, index});
        });
  });
  flight.devices.clear();
  flight.events.resize(streams_.size());
  auto refused = copy(flight);
  if (refused) {
    for (const std::size_t device : flight.devices) static_cast<void>(streams_[device]->drain());
  }
  return refused;
}

// A piece joins the one before if it continues that: neighbouring tensors are one copy. No copy may
// reach from one allocation into another, though, and these may touch as well.
void DeviceCopies::add(Piece piece) {
  if (!pieces_.empty()) {
    Piece& last = pieces_.back();
    const bool one = joins_places_ || last.place == piece.place;
    if (one && last.device == piece.device && last.to + last.nbytes == piece.to &&
        last.from + last.nbytes == piece.from) {
      last.nbytes += piece.nbytes;
      return;
    }
  }
  pieces_.push_back(piece);
}

std::optional<Failure> DeviceCopies::copy(Flight& flight) {
  for (const Piece& piece : pieces_) {
    if (std::ranges::find(flight.devices, piece.device) == flight.devices.end())
      flight.devices.push_back(piece.device);
    Stream& stream = *streams_[piece.device];
    if (auto refused = stream.copy_in(piece.to, piece.from, piece.nbytes)) return refused;
  }
  for (const std::size_t device : flight.devices) {
    auto& event = flight.events[device];
    try {
      if (!event) event = std::make_shared<Event>(streams_[device]->device().shared_from_this());
    } catch (const IoError& error) {
      return error.failure();
    }
    if (auto refused = streams_[device]->record(*event)) return refused;
  }
  return std::nullopt;
}

StreamEnds DeviceCopies::ends(const Flight& flight) const {
  StreamEnds ends;
  for (const std::size_t device : flight.devices) {
    ends.emplace_back(streams_[device].get(), flight.events[device]);
  }
  return ends;
}

DeviceCopies::Landing DeviceCopies::ask(Flight& flight) {
  while (!flight.devices.empty()) {
    const Event::Answer answer = flight.events[flight.devices.back()]->ask();
    if (answer.refused) {
      drain();
      return {true, answer.refused};
    }
    if (!answer.reached) return {};
    flight.devices.pop_back();
  }
  return {true, std::nullopt};
}

std::optional<Failure> DeviceCopies::wait(Flight& flight) {
  while (!flight.devices.empty()) {
    if (auto refused = flight.events[flight.devices.back()]->wait()) {
      drain();
      return refused;
    }
    flight.devices.pop_back();
  }
  return std::nullopt;
}

void DeviceCopies::drain() noexcept {
  for (const auto& stream : streams_) static_cast<void>(stream->drain());
}

}  // namespace fastio
