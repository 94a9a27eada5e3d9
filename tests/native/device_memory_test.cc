// Memory that runs out at any allocation while a device, a stream or an event is made: the failure
// is thrown or returned, and nothing is kept. In an executable of its own, for its operator new.
#include <doctest/doctest.h>

#include <new>

#include "device_double.h"
#include "failing_memory.h"

namespace fastio {
namespace {

using testing::FailingAllocation;

// Makes one while the n-th allocation fails. Returns whether there was an n-th.
template <typename Make>
bool make_with_failure(long n, Make&& make) {
  decltype(make()) made;
  bool came = false;
  try {
    const FailingAllocation failing(n);
    made = make();
    came = FailingAllocation::came();
  } catch (const std::bad_alloc&) {
    came = true;
  } catch (const IoError& error) {  // it was the double's
    came = error.failure().error == 2;
  }
  return came;
}

template <typename Make>
long refused_until_made(Make&& make) {
  static_cast<void>(make());  // one-time allocations
  const int retained = fake_cuda_contexts_retained();
  long n = 0;
  for (bool came = true; came; ++n) {
    came = make_with_failure(n, make);
    CHECK(fake_cuda_contexts_retained() == retained);
    CHECK(fake_cuda_streams_alive() == 0);
    CHECK(fake_cuda_events_alive() == 0);
    CHECK(fake_cuda_current_depth() == 0);
  }
  return n - 1;
}

TEST_CASE("an object that runs out of memory during its construction keeps nothing") {
  const testing::Double fresh;
  CHECK(refused_until_made([] { return Device::of(0); }) > 0);
  const auto device = Device::of(0);
  CHECK(refused_until_made([&] { return std::make_unique<Stream>(device); }) > 1);
  CHECK(refused_until_made([&] { return std::make_unique<Event>(device); }) > 1);
}

}  // namespace
}  // namespace fastio
