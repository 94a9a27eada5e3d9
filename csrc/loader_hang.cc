#include "loader_hang.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace fastio {

std::unique_ptr<Answers> watched_disks(const std::vector<ShardRequest>& shards,
                                       const LoadOptions& options) {
  const auto on_roots = [](const ShardRequest& shard) { return shard.on_roots; };
  const bool watches = options.root_timeout || options.hedge_after;
  if (!watches || !std::ranges::all_of(shards, on_roots)) return nullptr;
  std::vector<std::vector<std::uint64_t>> disks;
  disks.reserve(shards.size());
  for (const ShardRequest& shard : shards) disks.push_back(disks_of(shard));
  return std::make_unique<Answers>(disks);
}

void avoid_indebted(LoadState& state) {
  if (!state.answers || !state.options.persistent) return;
  const MutexLock lock(state.crew.mutex);
  Dispatch& dispatch = state.replicas.dispatch();
  for (std::size_t i = 0; i < state.layout.shards.size(); ++i) {
    const ShardRequest& shard = state.layout.shards[i];
    if (shard.extents.empty()) continue;
    const Extent all{shard.extents.front().begin, shard.extents.back().end};
    for (std::size_t replica = 0; replica < shard.replicas.size(); ++replica) {
      const Replica& each = shard.replicas[replica];
      if (!owes_answer(each.disk())) continue;
      dispatch.avoid(i, replica);
      if (!dispatch.avoided(i, replica)) continue;
      Incident avoided{i, replica, all, {}, {}, {}, Incident::Remedy::other_replica};
      avoided.failure = {ETIMEDOUT, "read", each.path(), all.begin, kOwesAnswer};
      state.incidents.note(std::move(avoided));
    }
  }
}

void blame_hung(LoadState& state, std::size_t shard, const Extent& span) {
  if (!state.answers || !state.options.persistent) return;
  const auto& replicas = state.layout.shards[shard].replicas;
  for (std::size_t replica = 0; replica < replicas.size(); ++replica) {
    if (!state.answers->hangs(shard, replica)) continue;
    const Failure failure{ETIMEDOUT, "read", replicas[replica].path(), span.begin,
                          no_answer_for(*state.options.root_timeout)};
    state.incidents.note({shard, replica, span, failure});
  }
}

void lose_read(LoadState& state, const Assignment& work, std::size_t replica, const Extent& span,
               Failure failure) {
  const std::size_t shard = work.block.shard;
  BlockDesk desk(state);
  if (!state.layout.stages(work.block.range)) work.region->abandon();
  desk.read_finished(shard, replica, span.nbytes(), ReadEnd::failed);
  if (state.crew.stopping()) return;  // nobody wants the block
  const bool other = state.options.persistent && state.answers->has_answering(shard);
  Incident lost{shard, replica, span, failure};
  if (other) lost.remedy = Incident::Remedy::other_replica;
  state.incidents.note(std::move(lost));
  if (other) return desk.read_anew(work);
  blame_hung(state, shard, span);
  state.fail(shard, std::move(failure));
}

}  // namespace fastio
