import { defineConfig } from '@hey-api/openapi-ts';

export default defineConfig({
  input: process.env.CAPATAZ_DOCUMENT!,
  output: { path: process.env.CAPATAZ_SDK!, importFileExtension: '.js' },
  logs: { level: 'error' },
  plugins: ['@hey-api/client-fetch', '@hey-api/typescript', '@hey-api/sdk'],
});
