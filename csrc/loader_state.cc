#include "loader_state.h"

#include <cerrno>
#include <string>
#include <utility>

#include "loader_hang.h"

namespace fastio {
namespace {

std::vector<Dispatch::Block> dispatched(const LoadLayout& layout) {
  std::vector<Dispatch::Block> blocks;
  blocks.reserve(layout.blocks.size());
  for (const auto& [shard, range] : layout.blocks) blocks.push_back({shard, range.nbytes()});
  return blocks;
}

}  // namespace

LoadState::LoadState(LoadOptions allowed, LoadLayout made, std::unique_ptr<Answers> watched,
                     std::vector<std::shared_ptr<Region>> mappings)
    : options(std::move(allowed)),
      layout(std::move(made)),
      answers(std::move(watched)),
      several_disks(layout.disk_count() > 1),
      outcome({ENOMEM, "allocate", first_path(), {}, {}}),
      replicas(layout.disks(), dispatched(layout)),
      window(options.window_bytes, layout.regions()),
      ledger(layout.regions(), layout.blocks),
      regions(layout, options.huge_pages, std::move(mappings)) {
  for (std::size_t i = 0; i < layout.shards.size(); ++i) {
    if (!layout.shards[i].places.empty()) ledger.expect_places(i, layout.shards[i].extents);
  }
  if (options.window_bytes) return;
  regions.make_all();
  replicas.dispatch().open_until(layout.blocks.size());
}

std::shared_ptr<LoadState> LoadState::make(std::vector<ShardRequest> shards,
                                           const LoadOptions& options) {
  check(shards, options);
  auto answers = watched_disks(shards, options);
  FileAccesses files = access_files(shards, options, answers.get());
  for (std::size_t i = 0; i < shards.size(); ++i) {
    std::string refusal = open_record(shards[i], files.replicas[i].front(), options);
    if (!refusal.empty()) files.fallbacks.push_back(refusal + ": all checksums are compared");
  }
  LoadLayout layout = lay_out(std::move(shards), std::move(files.replicas), options, answers.get());
  LoadOptions allowed = within_limits(options, layout);
  auto state = std::make_shared<LoadState>(std::move(allowed), std::move(layout),
                                           std::move(answers), std::move(files.mappings));
  for (const std::string& fallback : files.fallbacks) state->outcome.note_fallback(fallback);
  avoid_indebted(*state);
  return state;
}

void LoadState::fail(std::size_t shard, Failure failure) {
  outcome.fail(shard, std::move(failure));
  stop();
}

void LoadState::fail(const DamagedChunk& damage) {
  outcome.fail(damage);
  stop();
}

void LoadState::fail_without_memory(const std::bad_alloc& error) {
  outcome.fail_without_memory(error);
  stop();
}

void LoadState::stop() {
  const MutexLock lock(crew.mutex);
  crew.stop();
}

std::string LoadState::first_path() const {
  return layout.shards.empty() ? "" : layout.shards.front().replicas.front().path();
}

}  // namespace fastio
