// RocksDB comes from the distribution without instrumentation: the thread sanitizer sees neither its locks nor its
// atomics, and takes what they order for races.
extern "C" const char* __tsan_default_suppressions();  // NOLINT(bugprone-reserved-identifier): the sanitizer's name

extern "C" const char* __tsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier)
  return "race:librocksdb.so\ncalled_from_lib:librocksdb.so\nrace:rocksdb::\n";
}
