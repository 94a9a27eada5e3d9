// The fixture of the loader's tests: every way to read, a job run to its end, its bytes compared.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine_faults.h"
#include "loader.h"
#include "sample_file.h"

// Prints the value of an optional in a failed assertion.
template <typename Value>
struct doctest::StringMaker<std::optional<Value>> {
  static String convert(const std::optional<Value>& value) {
    return value ? toString(*value) : String("nullopt");
  }
};

namespace fastio::testing {

inline constexpr std::chrono::milliseconds kPatience{60'000};  // a job that takes longer hangs

// The engines that this host has.
[[nodiscard]] std::vector<EnginePreference> engines_here();
[[nodiscard]] std::string name_of(EnginePreference engine);

// Completion faults for the engines of the jobs started while this lives. Its destructor releases
// held completions.
class InjectedFaults {
 public:
  explicit InjectedFaults(std::vector<Fault> faults) { set_completion_faults(std::move(faults)); }
  InjectedFaults(const InjectedFaults&) = delete;
  InjectedFaults& operator=(const InjectedFaults&) = delete;
  ~InjectedFaults() {
    set_completion_faults({});
    release_held_completions();
  }
};

// Waits until such a fault holds a completion back: from then on its job cannot end by itself.
void wait_until_held();

// One block at a time in file order, so that the n-th completion is that of the n-th block.
[[nodiscard]] LoadOptions one_at_a_time(EnginePreference engine, std::uint64_t block_bytes);

[[nodiscard]] std::shared_ptr<LoadJob> load_to_the_end(std::vector<ShardRequest> shards,
                                                       const LoadOptions& options);

// Consumes the job's regions and describes the first tensor that differs from the file; empty if
// none does.
[[nodiscard]] std::string first_difference(LoadJob& job,
                                           const std::vector<std::span<const std::byte>>& expected);
[[nodiscard]] std::string first_difference(LoadJob& job, const SampleFile& file);

}  // namespace fastio::testing
