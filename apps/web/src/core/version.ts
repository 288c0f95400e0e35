/** The version of flowship, read from the Python package when the app is built. */

declare const __FLOWSHIP_VERSION__: string;

export const VERSION = __FLOWSHIP_VERSION__;
