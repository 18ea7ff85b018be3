/* The part of CUDA's driver library that PyTorch's libraries link to; the runtime's stand-in answers instead. */
#define CALL(name) __attribute__((visibility("default"))) int name() { return 0; }
CALL(cuCtxSetCurrent)
CALL(cuDeviceGet)
CALL(cuDeviceGetAttribute)
CALL(cuDevicePrimaryCtxGetState)
CALL(cuDevicePrimaryCtxRetain)
CALL(cuFuncGetAttribute)
CALL(cuFuncSetAttribute)
CALL(cuFuncSetCacheConfig)
CALL(cuGetErrorString)
CALL(cuLaunchCooperativeKernel)
CALL(cuLaunchKernel)
CALL(cuLinkAddData_v2)
CALL(cuLinkComplete)
CALL(cuLinkCreate_v2)
CALL(cuModuleGetFunction)
CALL(cuModuleLoad)
CALL(cuModuleLoadData)
CALL(cuModuleLoadDataEx)
CALL(cuModuleUnload)
CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor)
CALL(cuPointerGetAttribute)
CALL(cuTensorMapEncodeTiled)

__attribute__((visibility("default"))) int cuCtxGetCurrent(void** context) {
  *context = (void*)1;
  return 0;
}
