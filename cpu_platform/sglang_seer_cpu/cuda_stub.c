/* The eight functions of libcuda.so.1 that sgl_kernel binds to, all answering
 * CUDA_ERROR_NO_DEVICE, so that its library loads on a machine without a driver. */

enum { CUDA_ERROR_NO_DEVICE = 100 };

#define NO_DEVICE(name) \
    int name(void) { return CUDA_ERROR_NO_DEVICE; }

NO_DEVICE(cuGetErrorString)
NO_DEVICE(cuMemAddressFree)
NO_DEVICE(cuMemGetAddressRange_v2)
NO_DEVICE(cuMemRelease)
NO_DEVICE(cuMemRetainAllocationHandle)
NO_DEVICE(cuMemSetAccess)
NO_DEVICE(cuMemUnmap)
NO_DEVICE(cuPointerGetAttribute)
