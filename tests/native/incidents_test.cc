#include "incidents.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <span>
#include <vector>

namespace fastio {
namespace {

using Remedy = Incident::Remedy;

Digest number(std::uint64_t value) {
  return {default_algorithm(), std::as_bytes(std::span(&value, 1))};
}

Incident damaged(std::uint64_t chunk, std::size_t replica = 0) {
  return {0, replica, {chunk * 10, chunk * 10 + 10}, {}, number(chunk + 1), number(chunk)};
}

TEST_CASE("incidents are taken once, as they came") {
  IncidentLog log;
  for (const std::uint64_t chunk : {5U, 1U}) log.note(damaged(chunk));
  const auto taken = log.take();
  REQUIRE(taken.size() == 2);
  CHECK(taken[0].extent.begin == 50);
  CHECK(taken[1].extent.begin == 10);
  CHECK(log.take().empty());
}

TEST_CASE("of many, those that touch each other become one, with the digests of the first") {
  IncidentLog log(4, 100);
  for (std::uint64_t chunk = 8; chunk > 0; --chunk) log.note(damaged(chunk));
  const auto taken = log.take();
  CHECK(taken.size() < 8);
  CHECK(log.dropped() == 0);
  CHECK(taken.front().extent.end > taken.front().extent.begin + 10);
  CHECK(taken.front().expected == number(taken.front().extent.begin / 10 + 1));
}

TEST_CASE("only incidents of one kind are joined") {
  IncidentLog log(2, 100);
  Incident remedied = damaged(1);
  remedied.remedy = Remedy::read_again;
  Incident failed = damaged(2);
  failed.failure = Failure{EIO, "read", "file", 20, {}};
  for (const Incident& incident : {damaged(0), remedied, failed, damaged(3, 1), damaged(5)})
    log.note(incident);
  CHECK(log.take().size() == 5);
}

TEST_CASE("of very many the first ones are kept, and the others counted") {
  IncidentLog log(4, 10);
  for (std::uint64_t i = 0; i < 25; ++i) log.note(damaged(2 * i));  // none touches another one
  CHECK(log.take().size() == 10);
  CHECK(log.dropped() == 15);
}

}  // namespace
}  // namespace fastio
