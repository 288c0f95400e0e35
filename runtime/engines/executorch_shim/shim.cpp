// C functions around ExecuTorch's C++ runtime, so that numpy and ctypes can run a .pte without torch.
//
// A program owns the memory of its methods: mem_id 1 holds activations, mem_id 2 the mutable buffers
// (the KV cache) that methods share. Both are reserved at the largest size that any method plans and
// take physical pages only where they are touched. All functions are for one thread at a time per
// program. A null pointer or a value other than 0 means failure; flowship_error() has the words.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/platform/platform.h>

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::BufferDataLoader;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::BackendOption;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::LoadBackendOptionsMap;
using executorch::runtime::Program;
using executorch::runtime::Span;

// threadpool.h is not in the wheel; libexecutorch_threadpool.so exports these.
namespace executorch::extension::threadpool {
class ThreadPool final {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t num_threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

constexpr size_t kMaxArenaBytes = size_t{1} << 40;  // a hostile file may ask for anything
constexpr size_t kMaxErrorBytes = 1000;

thread_local std::string last_error;
thread_local bool capturing = false;
pal_emit_log_message_method emit_elsewhere = nullptr;

// The runtime explains its errors in log lines. Those of our calls become the error's text; all
// others go where they went before.
void emit_log(et_timestamp_t time, et_pal_log_level_t level, const char* file, const char* function,
              size_t line, const char* message, size_t length) {
  if (!capturing) {
    if (emit_elsewhere != nullptr) emit_elsewhere(time, level, file, function, line, message, length);
    return;
  }
  if (level != kError && level != kFatal) return;
  if (last_error.size() < kMaxErrorBytes) {
    if (!last_error.empty()) last_error += "; ";
    last_error.append(message, std::min(length, kMaxErrorBytes));
  }
}

void redirect_log() {
  static const bool done = [] {
    emit_elsewhere = executorch::runtime::get_pal_impl()->emit_log_message;
    return executorch::runtime::register_pal(
        executorch::runtime::PalImpl::create(emit_log, __FILE__));
  }();
  (void)done;
}

struct Capture {
  Capture() {
    redirect_log();
    last_error.clear();
    capturing = true;
  }
  ~Capture() { capturing = false; }
};

int fail(const std::string& what) {
  last_error = last_error.empty() ? what : what + ": " + last_error;
  return 1;
}

int fail(const char* what, Error error) {
  char code[16];
  snprintf(code, sizeof code, " (0x%x)", static_cast<unsigned>(error));
  return fail(std::string(what) + code);
}

// A region of memory from mmap: zeros, or a file that is only read.
class Mapping {
 public:
  static Mapping zeros(size_t size) {
    if (size == 0) return Mapping(nullptr, 0);
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  }
  static Mapping file(const char* path) {
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw std::runtime_error(std::strerror(errno));
    struct stat info;
    const bool known = fstat(descriptor, &info) == 0 && info.st_size > 0;
    try {
      if (!known) throw std::runtime_error("the file is empty");
      Mapping mapped = map(static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, descriptor);
      close(descriptor);
      return mapped;
    } catch (...) {
      close(descriptor);
      throw;
    }
  }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, size_);
  }
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Mapping(void* data, size_t size) : data_(static_cast<uint8_t*>(data)), size_(size) {}
  static Mapping map(size_t size, int protection, int flags, int descriptor) {
    void* data = mmap(nullptr, size, protection, flags, descriptor, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    return Mapping(data, size);
  }

  uint8_t* data_;
  size_t size_;
};

struct LoadedMethod {
  std::vector<Span<uint8_t>> spans;
  std::unique_ptr<HierarchicalAllocator> allocator;
};

struct LoadedProgram {
  explicit LoadedProgram(const char* path) : file(Mapping::file(path)) {}

  // Declared first, since methods point into them. The whole file stays mapped as long as the
  // program lives: ExecuTorch's own loader unmaps each weight once it should have been packed,
  // and a graph that reads one later would read unmapped memory.
  Mapping file;
  std::vector<Mapping> arenas;  // by mem_id - 1
  std::vector<std::unique_ptr<LoadedMethod>> methods;
  std::unique_ptr<Module> module;
};

struct Binding {
  LoadedProgram* program;
  std::string method;
  std::vector<TensorPtr> tensors;
  std::vector<EValue> inputs;
  void* output;
  size_t output_bytes;
};

void reserve_arenas(LoadedProgram& program) {
  auto names = program.module->method_names();
  if (!names.ok()) throw std::runtime_error("the program's methods cannot be read");
  std::vector<size_t> sizes;
  for (const auto& name : *names) {
    auto meta = program.module->method_meta(name);
    if (!meta.ok()) throw std::runtime_error("the method " + name + " cannot be read");
    sizes.resize(std::max(sizes.size(), meta->num_memory_planned_buffers()));
    for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
      const int64_t size = meta->memory_planned_buffer_size(i).get();
      if (size < 0 || static_cast<uint64_t>(size) > kMaxArenaBytes) {
        throw std::runtime_error("the method " + name + " plans " + std::to_string(size) + " bytes");
      }
      sizes[i] = std::max(sizes[i], static_cast<size_t>(size));
    }
  }
  for (size_t size : sizes) program.arenas.push_back(Mapping::zeros(size));
}

Error load_method(LoadedProgram& program, const std::string& name) {
  if (program.module->is_method_loaded(name)) return Error::Ok;
  auto meta = program.module->method_meta(name);
  if (!meta.ok()) return meta.error();
  auto method = std::make_unique<LoadedMethod>();
  for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
    const size_t size = static_cast<size_t>(meta->memory_planned_buffer_size(i).get());
    method->spans.push_back({program.arenas[i].data(), size});
  }
  method->allocator = std::make_unique<HierarchicalAllocator>(
      Span<Span<uint8_t>>(method->spans.data(), method->spans.size()));
  HierarchicalAllocator* allocator = method->allocator.get();
  program.methods.push_back(std::move(method));
  return program.module->load_method(name, allocator);
}

}  // namespace

extern "C" {

const char* flowship_error() { return last_error.c_str(); }

// Threads of the process-wide pool; count > 0 sets them, which is safe only while no method is loaded.
int flowship_threads(int count) {
  Capture capture;
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) return 0;
  if (count > 0) pool->_unsafe_reset_threadpool(static_cast<uint32_t>(count));
  return static_cast<int>(pool->get_thread_count());
}

// Maps the file. Weights that several methods or programs use are packed once (XNNPACK's cache).
void* flowship_open(const char* path) {
  Capture capture;
  try {
    auto program = std::make_unique<LoadedProgram>(path);
    program->module = std::make_unique<Module>(
        std::make_unique<BufferDataLoader>(program->file.data(), program->file.size()));
    BackendOption option{};
    std::strncpy(option.key, "weight_cache_enabled", sizeof option.key - 1);
    option.value = true;
    LoadBackendOptionsMap options;
    Error error = options.set_options("XnnpackBackend", Span<BackendOption>(&option, 1));
    if (error == Error::Ok) {
      error = program->module->load(options, Program::Verification::InternalConsistency);
    }
    if (error != Error::Ok) return fail("not a program", error), nullptr;
    reserve_arenas(*program);
    return program.release();
  } catch (const std::exception& error) {
    return fail(error.what()), nullptr;
  }
}

void flowship_close(void* program) {
  Capture capture;
  delete static_cast<LoadedProgram*>(program);
}

// Loads a method and ties it to buffers of the caller, which must outlive the binding.
// kinds: ScalarType codes (4 int64, 6 float32); shapes: those of all inputs, one after another.
void* flowship_bind(void* program, const char* method, int count, void** inputs, const int* kinds,
                    const int* ranks, const int* shapes, void* output, size_t output_bytes) {
  Capture capture;
  try {
    auto* loaded = static_cast<LoadedProgram*>(program);
    const Error error = load_method(*loaded, method);
    if (error != Error::Ok) return fail("the method cannot be loaded", error), nullptr;
    auto binding = std::make_unique<Binding>();
    binding->program = loaded;
    binding->method = method;
    binding->output = output;
    binding->output_bytes = output_bytes;
    for (int i = 0; i < count; ++i) {
      std::vector<SizesType> shape(shapes, shapes + ranks[i]);
      shapes += ranks[i];
      binding->tensors.push_back(from_blob(inputs[i], shape, static_cast<ScalarType>(kinds[i])));
      binding->inputs.emplace_back(*binding->tensors.back());
    }
    return binding.release();
  } catch (const std::exception& error) {
    return fail(error.what()), nullptr;
  }
}

void flowship_unbind(void* binding) { delete static_cast<Binding*>(binding); }

// One call: reads the bound inputs and writes the one output.
int flowship_run(void* binding) {
  Capture capture;
  try {
    auto* bound = static_cast<Binding*>(binding);
    auto outputs = bound->program->module->execute(bound->method, bound->inputs);
    if (!outputs.ok()) return fail("the call failed", outputs.error());
    if (outputs->size() != 1 || !outputs->front().isTensor()) return fail("not one output tensor");
    const auto& tensor = outputs->front().toTensor();
    if (tensor.scalar_type() != ScalarType::Float || tensor.nbytes() != bound->output_bytes) {
      return fail("the output has " + std::to_string(tensor.nbytes()) + " bytes, expected " +
                  std::to_string(bound->output_bytes) + " of float32");
    }
    std::memcpy(bound->output, tensor.const_data_ptr(), bound->output_bytes);
    return 0;
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}

// Zeroes the mutable buffers.
void flowship_clear(void* program) {
  auto* loaded = static_cast<LoadedProgram*>(program);
  for (size_t i = 1; i < loaded->arenas.size(); ++i) {
    std::memset(loaded->arenas[i].data(), 0, loaded->arenas[i].size());
  }
}

}  // extern "C"
