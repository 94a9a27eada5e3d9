#include "driver.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "mutex.h"
#include "process.h"

namespace fastio {
namespace {

template <typename Call>
bool find(void* library, const char* name, Call& call, std::string& missing) {
  call = reinterpret_cast<Call>(dlsym(library, name));
  if (call == nullptr) missing = name;
  return call != nullptr;
}

bool find_all(void* library, const DriverNames& names, DriverCalls& calls, std::string& missing) {
  return find(library, names.init, calls.init, missing) &&
         find(library, names.driver_version, calls.driver_version, missing) &&
         find(library, names.device_count, calls.device_count, missing) &&
         find(library, names.device, calls.device, missing) &&
         find(library, names.bus_id, calls.bus_id, missing) &&
         find(library, names.context_state, calls.context_state, missing) &&
         find(library, names.retain_context, calls.retain_context, missing) &&
         find(library, names.release_context, calls.release_context, missing) &&
         find(library, names.push_context, calls.push_context, missing) &&
         find(library, names.pop_context, calls.pop_context, missing) &&
         find(library, names.host_register, calls.host_register, missing) &&
         find(library, names.host_unregister, calls.host_unregister, missing) &&
         find(library, names.host_allocate, calls.host_allocate, missing) &&
         find(library, names.host_free, calls.host_free, missing) &&
         find(library, names.copy_in, calls.copy_in, missing) &&
         find(library, names.copy_out, calls.copy_out, missing) &&
         find(library, names.make_stream, calls.make_stream, missing) &&
         find(library, names.destroy_stream, calls.destroy_stream, missing) &&
         find(library, names.stream_wait, calls.stream_wait, missing) &&
         find(library, names.stream_synchronize, calls.stream_synchronize, missing) &&
         find(library, names.make_event, calls.make_event, missing) &&
         find(library, names.destroy_event, calls.destroy_event, missing) &&
         find(library, names.record_event, calls.record_event, missing) &&
         find(library, names.query_event, calls.query_event, missing) &&
         find(library, names.event_synchronize, calls.event_synchronize, missing) &&
         find(library, names.error_name, calls.error_name, missing) &&
         find(library, names.error_text, calls.error_text, missing);
}

std::string library_of(const DriverNames& names) {
  const char* given = names.variable != nullptr ? std::getenv(names.variable) : nullptr;
  return given != nullptr && *given != '\0' ? given : names.library;
}

std::vector<std::string> libraries() {
  std::vector<std::string> found;
  for (const DriverNames& names : known_drivers()) found.push_back(library_of(names));
  return found;
}

// The first one that is there; else the first one, with why it is not.
Driver open_any(Driver::Initialisation initialisation) {
  std::optional<Driver> refused;
  for (const DriverNames& names : known_drivers()) {
    Driver opened(names, library_of(names), initialisation);
    if (opened.status().available) return opened;
    if (!refused) refused.emplace(std::move(opened));
  }
  return std::move(*refused);
}

// "cuCtxPushCurrent" for "cuCtxPushCurrent_v2".
std::string without_version(std::string_view name) {
  return std::string(name.substr(0, name.find("_v")));
}

// Opened once in each process; once more where there was none and other libraries are named since.
struct Opened {
  struct One {
    std::vector<std::string> libraries;
    Driver driver;
  };

  Mutex mutex;
  std::atomic<const One*> latest{nullptr};
  // Somebody may still look at an earlier one.
  std::vector<std::unique_ptr<One>> all FASTIO_GUARDED_BY(mutex);

  const Driver& get() {
    const One* seen = latest.load(std::memory_order_acquire);
    if (seen != nullptr && (seen->driver.status().available || seen->libraries == libraries()))
      return seen->driver;
    const MutexLock lock(mutex);
    seen = latest.load(std::memory_order_acquire);
    auto named = libraries();
    if (seen == nullptr || (!seen->driver.status().available && seen->libraries != named)) {
      all.push_back(
          std::make_unique<One>(One{std::move(named), open_any(Driver::Initialisation::full)}));
      latest.store(all.back().get(), std::memory_order_release);
    }
    return all.back()->driver;
  }
};

}  // namespace

Driver::Driver(const DriverNames& names, std::string library, Initialisation initialisation)
    : names_(names), library_(std::move(library)) {
  open(initialisation);
}

void Driver::open(Initialisation initialisation) {
  const std::string kind = names_.kind;
  void* library = dlopen(library_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    status_.reason = "no " + kind + ": " + (why != nullptr ? why : library_.c_str());
    return;
  }
  if (std::string missing; !find_all(library, names_, calls_, missing)) {
    status_.reason =
        "no " + kind + ": " + library_ + " has no " + missing + ": the driver is too old";
    return;
  }
  if (const DriverResult result = calls_.driver_version(&status_.version);
      result != kDriverSuccess) {
    return refuse(&DriverNames::driver_version, result);
  }
  const auto text = [&](int version) {
    const int minor = version % names_.version_major / names_.version_minor;
    return std::to_string(version / names_.version_major) + "." + std::to_string(minor);
  };
  const std::string version = kind + " " + text(status_.version);
  if (status_.version < names_.version_least) {
    status_.reason = "no " + kind + ": the driver is too old: " + version + ", and " +
                     text(names_.version_least) + " is the least";
    return;
  }
  if (initialisation == Initialisation::full) {
    if (const DriverResult result = calls_.init(0); result != kDriverSuccess)
      return refuse(&DriverNames::init, result);
    if (const DriverResult result = calls_.device_count(&status_.device_count);
        result != kDriverSuccess) {
      return refuse(&DriverNames::device_count, result);
    }
  }
  status_.available = true;
  status_.reason = library_ + ", " + version;
}

void Driver::refuse(Call call, DriverResult result) {
  status_.reason = std::string("no ") + names_.kind + ": " + without_version(names_.*call) + ": " +
                   describe(result);
  // The answer to the first call in a child of a process that has initialised the driver.
  if (result == kDriverNotInitialized)
    status_.reason += ": it cannot be used in a process that was forked after it was initialised";
}

std::string Driver::describe(DriverResult result) const {
  const char *name = nullptr, *text = nullptr;
  if (calls_.error_name(result, &name) != kDriverSuccess || name == nullptr)
    return "unknown error " + std::to_string(result);
  std::string described = name;
  if (calls_.error_text(result, &text) == kDriverSuccess && text != nullptr)
    described += std::string(", ") + text;
  return described;
}

std::optional<Failure> Driver::failure_of(Call call, const std::string& device,
                                          DriverResult result) const {
  if (result == kDriverSuccess) return std::nullopt;
  Failure made{result, without_version(names_.*call), device, {}, describe(result)};
  made.kind = Failure::Kind::device;
  return made;
}

const Driver& driver() { return process_state<Opened>().get(); }

DriverStatus find_driver() { return open_any(Driver::Initialisation::none).status(); }

}  // namespace fastio
