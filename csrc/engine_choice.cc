// Which engine reads: found by doing it, never by the kernel's version.
#include <sys/resource.h>

#include <mutex>
#include <optional>
#include <utility>

#include "engine.h"
#include "engine_faults.h"
#include "error.h"
#include "process.h"

namespace fastio {
namespace {

struct Probed {
  std::once_flag once;
  EngineStatus uring;
};

std::vector<std::unique_ptr<Engine>> make_all(EngineKind kind, std::size_t count,
                                              unsigned queue_depth) {
  std::vector<std::unique_ptr<Engine>> engines;
  engines.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    auto engine =
        kind == EngineKind::uring ? make_uring_engine(queue_depth) : make_pread_engine(queue_depth);
#ifdef FASTIO_TESTING
    if (completion_faults_set()) engine = with_completion_faults(std::move(engine), queue_depth);
#endif
    engines.push_back(std::move(engine));
  }
  return engines;
}

}  // namespace

const char* name_of(EngineKind kind) { return kind == EngineKind::uring ? "uring" : "pread"; }

#ifdef FASTIO_HAVE_URING
bool uring_is_built() { return true; }
#else
bool uring_is_built() { return false; }

EngineStatus probe_uring() {
  return {EngineKind::uring,
          false,
          "not built in: liburing was missing when fastio was built. Install liburing-dev (Debian, "
          "Ubuntu) or liburing-devel (Fedora), then run: pip install --no-cache-dir "
          "--force-reinstall with the same source",
          {}};
}

std::unique_ptr<Engine> make_uring_engine(unsigned) {
  throw IoError(Failure{ENOSYS, "io_uring_setup", {}, {}, probe_uring().reason});
}
#endif

const EngineStatus& uring_status() {
  auto& probed = process_state<Probed>();
  std::call_once(probed.once, [&] { probed.uring = probe_uring(); });
  return probed.uring;
}

const EngineStatus& pread_status() {
  static const EngineStatus status{EngineKind::pread, true, "preadv threads work everywhere", {}};
  return status;
}

EngineSet make_engines(EnginePreference preference, std::size_t count, unsigned queue_depth) {
  if (preference == EnginePreference::pread) {
    return {EngineKind::pread, "asked for", make_all(EngineKind::pread, count, queue_depth)};
  }
  const EngineStatus& uring = uring_status();
  if (preference == EnginePreference::uring) {
    return {EngineKind::uring, "asked for", make_all(EngineKind::uring, count, queue_depth)};
  }
  std::string refusal = uring.reason;
  if (uring.available) {
    try {
      return {EngineKind::uring, uring.reason, make_all(EngineKind::uring, count, queue_depth)};
    } catch (const IoError& error) {  // the probe's ring was granted, these were not: a limit or a
                                      // thread's filter
      refusal = error.what();
    }
  }
  return {EngineKind::pread, "io_uring is not available: " + refusal,
          make_all(EngineKind::pread, count, queue_depth)};
}

}  // namespace fastio
