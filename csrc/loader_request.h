// The request of a load: files, extents, checksums, places, options; and how each file is read.
//
// All of it is plain data, written before a job is made and only read afterwards, by any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checksum.h"
#include "defaults.h"
#include "device.h"
#include "engine.h"
#include "error.h"
#include "memory.h"
#include "placement.h"
#include "plan.h"
#include "replica.h"
#include "trust.h"

namespace fastio {

enum class CacheMode { automatic, bypass, keep };
enum class MappingMode { automatic, always, never };

// A chunk beside its checksum.
struct ComparedChunk {
  enum class Is : std::uint8_t {
    sound,
    trusted,  // another process has found it sound
    damaged,
  };

  Is is = Is::sound;
  Digest expected, found;  // of a damaged one
};

struct ChunkTable {
  ChunkGrid grid;
  Digests digests;  // of each chunk
  // The chunks that other processes have verified; null: all are verified here.
  std::shared_ptr<TrustRecord> trusted = nullptr;

  // Given all bytes of a chunk. Other processes learn of one that is sound.
  [[nodiscard]] ComparedChunk compare(std::uint64_t chunk, std::span<const std::byte> data) const;
};

struct ShardRequest {
  std::vector<Replica> replicas;       // of the same bytes, the preferred one first
  std::vector<Extent> extents;         // ascending, disjoint
  std::optional<ChunkTable> table;     // none: not verified
  std::vector<Placement> places = {};  // of each extent; empty: regions are made for them
  // Of each place: which of the job's devices it is on, or kHost; empty: the host's, all of them.
  std::vector<int> devices = {};
  // The files lie on roots of a store, perhaps only one of them: a root that hangs is not waited
  // for. Of other files there is nothing else to read.
  bool on_roots = false;

  [[nodiscard]] int device_of(std::size_t extent) const {
    return devices.empty() ? kHost : devices[extent];
  }
  [[nodiscard]] std::uint64_t nbytes() const { return replicas.front().nbytes(); }
  [[nodiscard]] bool has_feed() const;
  // The file of its only replica, on a filesystem of this host; null: none. What is mapped has one.
  [[nodiscard]] File* local_file() const;
  [[nodiscard]] std::uint64_t bytes_of_extents() const;
};

// The disks of a shard's replicas, by st_dev.
[[nodiscard]] std::vector<std::uint64_t> disks_of(const ShardRequest& shard);

struct LoadOptions {
  EnginePreference engine = EnginePreference::automatic;
  CacheMode cache = CacheMode::automatic;
  MappingMode mapping = MappingMode::automatic;
  HugePages huge_pages = HugePages::automatic;
  // With `automatic`, cold files go through the page cache: others are about to read them.
  bool keep_cold = false;
  // A cold file that the page cache is to keep is brought in and mapped if all extents of the job
  // take no more than this. With `always`, any cold file is. None: cold files are not mapped.
  std::optional<std::uint64_t> mapping_room_bytes;
  std::uint64_t block_bytes = kDefaultBlockBytes;
  unsigned queue_depth = kDefaultQueueDepth;
  unsigned lanes = 2;
  // Up to so many lanes, more are added while the rate rises; none: their count is fixed.
  std::optional<unsigned> lanes_limit;
  std::optional<std::uint64_t> memory_limit_bytes;
  // Places may be on these. Their bytes are staged in pinned memory.
  std::vector<DeviceTarget> devices = {};
  std::uint64_t pinned_limit_bytes = kDefaultPinnedLimitBytes;  // in the whole process
  // Places that touch are of one allocation, so that one copy may fill several.
  bool joins_places = false;
  // With it, regions are made as lanes come to them, and no more of them than this many bytes (or
  // one) that were not released.
  std::optional<std::uint64_t> window_bytes;
  // Damaged chunks are read once more, past the page cache, and then from the other replicas. If a
  // replica cannot be read, its bytes come from the others. Otherwise the first failure ends the
  // job.
  bool persistent = false;
  // Nothing is kept: each block is read into staging, compared and dropped. A chunk that no replica
  // has sound is an incident, and the job goes on. Goes with `persistent`.
  bool surveys = false;
  // The folder of the records of other processes; none: none is believed. They count for bytes out
  // of the page cache alone, as those are the bytes that were verified.
  std::optional<std::string> trust_folder;
  // With it, a disk that has reads and answers none of them for so long hangs, where all files lie
  // on roots: what it was asked for comes from other replicas.
  std::optional<std::chrono::nanoseconds> root_timeout;
  // With it, a read that is out for longer is asked of another disk as well, in a job that persists
  // and whose files all lie on roots (loader_hedge.h).
  std::optional<std::chrono::nanoseconds> hedge_after;
};

// One digest for each chunk of a file, and chunks that one request can read.
[[nodiscard]] bool table_fits(const ChunkTable& table, std::uint64_t file_nbytes);

// Throws std::invalid_argument for requests and options that no job can be made of.
void check(const std::vector<ShardRequest>& shards, const LoadOptions& options);

// How the bytes of one replica are read. Only a file that is the single replica is mapped.
enum class ReadMode { mapped, buffered, direct, by_block, fed };

struct ShardAccess {
  ReadMode mode = ReadMode::direct;
  std::string cache_state;  // "cold", "warm", "mixed"
  std::string reason;
  std::uint64_t alignment = 4096;  // bytes
  // All of it was in memory: a read copies, and waits for nothing; a mapping brings nothing in.
  bool resident = false;
};

// How a load with these options reads one replica.
[[nodiscard]] ShardAccess choose_access(const ShardRequest& shard, std::size_t replica,
                                        const LoadOptions& options);

// Opens the record of a shard that is read out of the page cache. Returns why there is none, where
// one was to be had.
[[nodiscard]] std::string open_record(ShardRequest& shard, const ShardAccess& access,
                                      const LoadOptions& options);

// Whether O_DIRECT can serve a replica: blocks must begin at multiples of its alignment.
[[nodiscard]] DirectAccess direct_for(const ShardRequest& shard, std::size_t replica);

}  // namespace fastio
