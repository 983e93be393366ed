// A second device for machines without a GPU: "pretend". Its memory is the CPU's and its operations
// run on the CPU, but it refuses what CUDA refuses: arguments that lie on both devices, a random
// generator of the other device, NumPy. It differs from CUDA in two ways: it is as exact as the CPU
// and never runs in parallel with Python.
//
// PyTorch calls a device of somebody else "PrivateUse1". Every operation on it that has no kernel
// below comes to `compute`.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <torch/version.h>

#include <cstring>
#include <set>

namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(TYPE, 0);
const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

bool is_ours(const Tensor& t) { return t.defined() && t.device().type() == TYPE; }

// --- memory -------------------------------------------------------------------------------------

// Memory of the CPU that is labelled as the device's. `owner` keeps it.
c10::DataPtr labelled(c10::DataPtr owner) {
  void* data = owner.get();
  auto free = [](void* kept) { delete static_cast<c10::DataPtr*>(kept); };
  return {data, new c10::DataPtr(std::move(owner)), free, DEVICE};
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    return labelled(at::getCPUAllocator()->allocate(bytes));
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
} allocator;

// The tensor as the CPU sees it: the same memory, another label.
Tensor on_cpu(const Tensor& ours) {
  TORCH_CHECK(!ours.is_conj() && !ours.is_neg(), "The pretend device has no lazy conjugates.");
  c10::Storage memory(
      c10::Storage::use_byte_size_t(), ours.storage().nbytes(),
      c10::DataPtr(ours.storage().mutable_data(), c10::kCPU), at::getCPUAllocator(), true);
  auto seen = at::detail::make_tensor<c10::TensorImpl>(
      std::move(memory), c10::DispatchKeySet(c10::DispatchKey::CPU), ours.dtype());
  seen.unsafeGetTensorImpl()->set_sizes_and_strides(
      ours.sizes(), ours.strides(), ours.storage_offset());
  return seen;
}

// A tensor of the device in this memory, with the shape of `like`; a view has the keys of its base.
Tensor in_memory(c10::Storage memory, const Tensor& like, const Tensor* base = nullptr) {
  auto impl = base ? c10::make_intrusive<c10::TensorImpl>(
                         c10::TensorImpl::VIEW, std::move(memory), base->key_set(), like.dtype())
                   : c10::make_intrusive<c10::TensorImpl>(std::move(memory), KEYS, like.dtype());
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return Tensor(std::move(impl));
}

c10::DataPtr taken(const c10::Storage& memory) {  // the memory of a CPU tensor, kept by a copy
  auto free = [](void* kept) { delete static_cast<c10::Storage*>(kept); };
  return {memory.mutable_data(), new c10::Storage(memory), free, DEVICE};
}

// --- every operation ----------------------------------------------------------------------------

struct Seen {
  Tensor ours, cpu;
};

struct Arguments {
  std::vector<Seen> seen;
  bool here = false, elsewhere = false;

  Tensor on_cpu(const Tensor& t, bool number_allowed) {
    if (!t.defined()) return t;
    if (!is_ours(t)) {
      // CUDA takes a number from the CPU beside tensors of its own, but in no list of tensors.
      elsewhere |= t.dim() > 0 || !number_allowed;
      return t;
    }
    here = true;
    seen.push_back({t, ::on_cpu(t)});
    return seen.back().cpu;
  }

  // A result of the CPU as one of the device: the argument itself, a view of it, or new memory.
  Tensor back(const Tensor& result) const {
    if (!result.defined()) return result;
    for (const auto& [ours, cpu] : seen) {
      if (result.is_same(cpu)) return ours;
      if (result.storage().unsafeGetStorageImpl() == cpu.storage().unsafeGetStorageImpl())
        return in_memory(ours.storage(), result, &ours);
    }
    c10::Storage memory(c10::Storage::use_byte_size_t(), result.storage().nbytes(),
                        taken(result.storage()), &allocator, true);
    return in_memory(std::move(memory), result);
  }

  // An operation in place, or with `out`, may have given a tensor another size and memory.
  void resize() const {
    for (const auto& [ours, cpu] : seen) {
      if (ours.storage().data() != cpu.storage().data()) {
        ours.storage().set_data_ptr_noswap(taken(cpu.storage()));
        ours.storage().set_nbytes(cpu.storage().nbytes());
      }
      if (ours.sizes() != cpu.sizes() || ours.strides() != cpu.strides())
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(
            cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
  }
};

at::Generator cpu_generator(const IValue& given);
at::Generator default_generator();

// Random numbers of an operation that takes no generator come from the CPU's default one, so that
// one has the state of the device's for as long as the operation takes.
struct BorrowedState {
  at::Generator of_cpu = at::detail::getDefaultCPUGenerator(), of_device = default_generator();
  Tensor before = of_cpu.get_state();
  BorrowedState() { of_cpu.set_state(of_device.get_state()); }
  ~BorrowedState() {
    of_device.set_state(of_cpu.get_state());
    of_cpu.set_state(before);
  }
};

bool is_index(const std::string& name, size_t number) {  // CUDA takes these from the CPU as well
  static const std::set<std::string> names = {
      "aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_",
      "aten::_unsafe_index_put", "aten::_index_put_impl_"};
  return number == 1 && names.count(name);
}

// Run `kernel` on the CPU with the arguments of `op`, and put its results on the device.
void compute_as(const c10::OperatorHandle& op, const c10::OperatorHandle& kernel, Stack* stack,
                size_t added = 0) {
  const auto& schema = kernel.schema();
  const auto& expected = schema.arguments();
  Arguments all;
  bool takes_generator = false;
  auto* arguments = stack->data() + stack->size() - expected.size();
  for (size_t i = 0; i < expected.size(); ++i) {
    IValue& v = arguments[i];
    const auto& type = *expected[i].real_type();
    if (v.isTensor()) {
      v = all.on_cpu(v.toTensor(), true);
    } else if (v.isTensorList()) {
      c10::List<Tensor> moved;
      for (const Tensor& t : v.toTensorVector()) moved.push_back(all.on_cpu(t, false));
      v = moved;
    } else if (v.isOptionalTensorList()) {
      const bool index = is_index(schema.name(), i) && all.here;
      c10::List<std::optional<Tensor>> moved;
      for (const std::optional<Tensor>& t : v.toOptionalTensorList().vec())
        moved.push_back(t && !(index && !is_ours(*t)) ? all.on_cpu(*t, true) : t);
      v = moved;
    } else if (v.isDevice()) {
      v = c10::Device(c10::kCPU);
    } else if (type.isSubtypeOf(*c10::OptionalType::create(c10::GeneratorType::get()))) {
      takes_generator = true;
      v = cpu_generator(v);
    }
  }
  TORCH_CHECK(!(all.here && all.elsewhere),
              "Expected all tensors to be on the same device, but found at least two devices, ",
              DEVICE, " and cpu! (", op.schema().name(), ")");
  {
    std::optional<BorrowedState> borrowed;
    if (!takes_generator && kernel.hasTag(at::Tag::nondeterministic_seeded)) borrowed.emplace();
    kernel.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  all.resize();
  for (auto& v : torch::jit::last(*stack, schema.returns().size())) {
    IValue& result = const_cast<IValue&>(v);
    if (result.isTensor()) {
      result = all.back(result.toTensor());
    } else if (result.isTensorList()) {
      c10::List<Tensor> moved;
      for (const Tensor& t : result.toTensorVector()) moved.push_back(all.back(t));
      result = moved;
    }
  }
}

void compute(const c10::OperatorHandle& op, Stack* stack) { compute_as(op, op, stack); }

c10::OperatorHandle find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
}

// Convolutions have operations of their own on such a device; the CPU has kernels for the usual.
void convolve(const c10::OperatorHandle& op, Stack* stack) {
  static const auto usual = find("aten::convolution");
  compute_as(op, usual, stack);
}

void convolve_backward(const c10::OperatorHandle& op, Stack* stack) {
  static const auto usual = find("aten::convolution_backward");
  // gradient, x, weight, [the shape of the bias,] stride, padding, dilation, transposed, …, groups
  const auto first = stack->end() - op.schema().arguments().size();
  const auto weight = (first + 2)->toTensor();
  const int64_t channels =
      (first + 6)->toBool() ? weight.size(1) * (first + 8)->toInt() : weight.size(0);
  stack->insert(first + 3, IValue(std::vector<int64_t>{channels}));
  compute_as(op, usual, stack);
}

// --- what has no tensor of the device among its arguments, or one of each -----------------------

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &allocator, KEYS, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator, KEYS, c10::dtype_or_default(dtype));
}

Tensor seen(const Tensor& t) { return is_ours(t) ? on_cpu(t) : t; }

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  seen(to).copy_(seen(from));
  return to;
}

at::Scalar number(const Tensor& t) { return on_cpu(t).item(); }

Tensor& set(Tensor& t, at::Storage memory, int64_t offset, c10::IntArrayRef size,
            c10::IntArrayRef stride) {
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(memory));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return t;
}

// So that `module.to(...)` moves its parameters, as with CUDA, and does not make others.
bool may_replace(const Tensor&, const Tensor& data) {
  return data.layout() == c10::kStrided;
}

Tensor& set_all(Tensor& t, at::Storage memory) {
  const int64_t size = memory.nbytes() / t.itemsize();
  return set(t, std::move(memory), 0, {size}, {1});
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_local_scalar_dense", &number);
  m.impl("_has_compatible_shallow_copy_type", &may_replace);
  m.impl("set_.source_Storage", &set_all);
  m.impl("set_.source_Storage_storage_offset", &set);
  m.impl("convolution_overrideable",
         torch::CppFunction::makeFromBoxedFunction<&convolve>());
  m.impl("convolution_backward_overrideable",
         torch::CppFunction::makeFromBoxedFunction<&convolve_backward>());
}

// --- autocast: the lists of operations that are CUDA's ------------------------------------------

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  using namespace at;  // the names in the lists
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FP32_OF_DTYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FP32_OF_DTYPE)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(PROMOTE)
}

// --- random numbers -----------------------------------------------------------------------------

// A generator of the device: one of the CPU under another name.
struct Generator final : c10::GeneratorImpl {
  at::Generator cpu;

  explicit Generator(at::Generator cpu)
      : c10::GeneratorImpl(DEVICE, KEYS), cpu(std::move(cpu)) {}

  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { cpu.set_offset(offset); }
  uint64_t get_offset() const override { return cpu.get_offset(); }
  uint64_t current_seed() const override { return cpu.current_seed(); }
  uint64_t seed() override { return cpu.seed(); }
  void set_state(const c10::TensorImpl& state) override {
    cpu.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return cpu.unsafeGetGeneratorImpl()->get_state();
  }
  c10::GeneratorImpl* clone_impl() const override { return new Generator(cpu.clone()); }
};

at::Generator new_generator(c10::DeviceIndex = 0) {
  return at::make_generator<Generator>(at::detail::createCPUGenerator());
}

at::Generator& own_generator() {
  static at::Generator own = new_generator();
  return own;
}

at::Generator default_generator() { return own_generator(); }

at::Generator cpu_generator(const IValue& given) {
  auto generator = given.isNone() ? own_generator() : given.toGenerator();
  TORCH_CHECK(generator.device().type() == TYPE, "Expected a '", DEVICE.type(),
              "' device type for generator but found '", generator.device().type(), "'");
  return static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->cpu;
}

TORCH_LIBRARY(pretend, m) {
  m.def("seed(int seed) -> ()", [](int64_t seed) { own_generator().set_current_seed(seed); });
  m.def("state() -> Tensor", [] { return own_generator().get_state(); });
  m.def("set_state(Tensor state) -> ()", [](const Tensor& state) {
    own_generator().set_state(state.clone());  // it is read from the start of its memory
  });
}

// --- what PyTorch asks about a device -----------------------------------------------------------

struct Hooks final : at::PrivateUse1HooksInterface {
  void init() const override {}
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Device getDeviceFromPtr(void*) const override { return DEVICE; }
  at::Allocator* getPinnedMemoryAllocator() const override { return at::getCPUAllocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return own_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const { return new_generator(); }
  void resizePrivateUse1Bytes(const c10::Storage& memory, size_t bytes) const override {
    auto larger = allocator.allocate(bytes);
    memcpy(larger.get(), memory.data(), std::min(bytes, memory.nbytes()));
    memory.set_data_ptr_noswap(std::move(larger));
    memory.set_nbytes(bytes);
  }
} hooks;

struct Guard final : c10::impl::DeviceGuardImplInterface {  // one device, one stream
  const c10::Stream stream{c10::Stream::DEFAULT, DEVICE};

  c10::DeviceType type() const override { return TYPE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream; }
  c10::Stream getNewStream(c10::Device, int) const override { return stream; }
  c10::Stream exchangeStream(c10::Stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
} guard;

const c10::impl::DeviceGuardImplRegistrar registered_guard(TYPE, &guard);
REGISTER_ALLOCATOR(TYPE, &allocator);
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 7  // later the hooks do this
REGISTER_GENERATOR_PRIVATEUSE1(new_generator);
#endif
const bool registered_hooks = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

}  // namespace
